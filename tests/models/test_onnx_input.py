"""What an ONNX network expects of its input, in words."""

from __future__ import annotations

import pytest

from crossres.core.errors import CrossresError
from crossres.models.onnx_input import OnnxInput, read_onnx_input


def test_the_input_as_it_is_written_on_the_command_line() -> None:
    text = "highest=1,mean=0.5:0.4:0.3,std=0.2:0.2:0.2,colours=bgr,layout=nhwc,size=112,output=fc1"
    assert read_onnx_input(text) == OnnxInput(
        size=112,
        highest=1.0,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.2),
        colours="bgr",
        layout="nhwc",
        output="fc1",
    )
    for wrong, line in [
        ("colors=bgr", r"ONNX input: unknown option 'colors'; did you mean 'colours'\?"),
        ("colours=grey", r"ONNX input: colours is 'grey', expected rgb or bgr"),
        ("mean=0.5", r"ONNX input: mean is '0.5', expected three numbers as in 0.5:0.5:0.5"),
        ("size=big", r"ONNX input: size is 'big', expected a number"),
    ]:
        with pytest.raises(CrossresError, match=rf"^{line}$"):
            read_onnx_input(wrong)
