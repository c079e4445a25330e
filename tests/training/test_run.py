"""Whole runs on drawn images: repeatable to the last bit, resumable, and refused in a line."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file

from crossres import (
    Augment,
    CrossresError,
    Degradation,
    Distill,
    Evaluate,
    Export,
    Images,
    Model,
    Recognizer,
    Report,
    Teach,
    Train,
    distill,
    evaluate,
    export,
    load,
    read,
    teach,
    write_report,
)
from crossres.bench.results import require_one_experiment
from crossres.commands.main import main
from crossres.config.experiment import IN_MEMORY
from crossres.config.methods import METHODS
from crossres.core.files import load_state, save_state
from crossres.models.encoder import build_encoder
from crossres.models.pretrained import save_pretrained
from crossres.training.networks import _normalisation

STEPS = 5  # of an epoch
CRRCD = {"crrcd_paper": {"weight": 1.0, "anchors": 4, "width": 16}}
CRD = {"crd": {"weight": 0.5, "width": 16}}
CRD_BANK = {"crd": {"weight": 0.5, "form": "bank", "negatives": 32, "width": 16}}
CE, KD = {"ce": {"weight": 1.0}}, {"kd": {"weight": 1.0}}
Stopped = tuple[Distill, str]


@pytest.fixture
def copied(stopped: Stopped, tmp_path: Path) -> Distill:
    """The config of a copy of the run that broke off."""
    config, _ = stopped
    shutil.copytree(config.folder.parent, tmp_path / "runs")
    return replace(config, runs=str(tmp_path / "runs"))


# the same seed gives the same numbers


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make: Any, runs: Any, precision: str) -> None:
    losses = {**CE, **KD, **CRD_BANK, **CRRCD}
    degradation = Degradation(preset="realistic")
    common = {"losses": losses, "degradation": degradation, "precision": precision, "train_epochs": 2}
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        torch.manual_seed(len(name))  # what the generator was before changes nothing
        distill(make(name=name, train_seed=seed, **common), quiet=True)
    folder = make().folder.parent
    runs.same_runs(folder / "one", folder / "two")
    ours, theirs = (load_file(folder / name / "model" / "model.safetensors") for name in ("one", "other"))
    assert not torch.equal(ours["backbone.conv1.weight"], theirs["backbone.conv1.weight"])
    losses_of = [[row["losses"] for row in runs.rows(folder / name)] for name in ("one", "other")]
    assert losses_of[0] != losses_of[1]


# k + (N - k) epochs are N epochs

RESUMED: dict[str, dict[str, Any]] = {
    "sgd, one cycle, crrcd, kd decays": {
        "losses": {**CE, **CRRCD, "kd": {"weight": 1.0, "decay": True}},
    },
    "adamw, cosine, crd bank": {
        "losses": {**CE, **CRD_BANK},
        "train_optimizer": "adamw",
        "train_schedule": "cosine",
        "train_learning_rate": 1e-3,
    },
    "bfloat16, ema, no validation, noise": {
        "precision": "bfloat16",
        "train_ema": 0.8,
        "train_val_fraction": 0.0,
        "degradation": Degradation(preset="realistic"),
        "lr_size": (6, 8),
        "losses": {**CE, **KD, **CRRCD},
    },
    "accumulated": {"losses": {**CE, **CRRCD}, "train_accumulate": 2},
    "maps, losses with a stage of their own": {
        # of 3 epochs ft's stage ends in the second, ab's at its end
        "losses": {**CE, "ft": {"weight": 1.0, "pretrain": 0.5}, "ab": {"weight": 1.0, "pretrain": 0.6}},
    },
    "crrcd of images and cells, maps that follow the view": {
        "losses": {**CE, "crrcd_images": {"weight": 4.0}, "crrcd_maps": {"weight": 4.0, "group": 4}},
        "augment": Augment(shift=2, flip=True, zoom=0.1),
    },
    "step, ema, live teacher, no momentum, no flip": {
        "losses": {**CE, **CRD},
        "train_schedule": "step",
        "train_milestones": [0.34, 0.67],
        "train_ema": 0.9,
        "teacher_cache": False,
        "train_momentum": 0.0,
        "train_channels_last": False,
        "augment": Augment(shift=1, flip=False),
    },
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED.keys())
def test_a_resumed_run_equals_an_uninterrupted_one(make: Any, runs: Any, pause: Any, options: dict[str, Any]) -> None:
    options = {**options, "losses": {**options["losses"], **pause.losses}}
    straight = make(name="straight", **options)
    expected = distill(straight, quiet=True)
    steps = expected["images"]["train"] // 16
    broken = make(name="broken", **options)
    # twice: in the second epoch and, having resumed, in the third
    for after, epochs, resume in ((steps + 2, 1, False), (steps + 2, 2, True)):
        pause.after(after)
        with pytest.raises(KeyboardInterrupt):
            distill(broken, resume=resume, quiet=True)
        assert len(runs.rows(broken.folder)) == epochs
        torch.rand(3)  # the generator's state in the new process is another one
    result = distill(broken, resume=True, quiet=True)
    runs.same_runs(straight.folder, broken.folder)
    assert result["top1_last"] == expected["top1_last"]
    # a finished run is returned as it is
    assert distill(broken, resume=True, quiet=True) == result


@pytest.mark.usefixtures("pause")
def test_ctrl_c_says_how_to_go_on_and_the_command_line_does(stopped: Stopped, copied: Distill, runs: Any) -> None:
    config, output = stopped
    hint = next(line for line in output.splitlines() if "go on with" in line)
    words = hint.split("crossres ", 1)[1].split()
    assert words == ["distill", "--resume", str(config.folder)]
    assert len(runs.rows(copied.folder)) == 1
    assert main([*words[:-1], str(copied.folder)]) == 0
    runs.same_runs(copied.folder.with_name("whole"), copied.folder)


def test_ctrl_c_before_the_first_epoch_ends_is_resumable_too(
    runs: Any, pause: Any, copied: Distill, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(copied, name="my run")
    pause.after(2)
    with pytest.raises(KeyboardInterrupt):
        distill(config)
    assert f"--resume '{config.folder}'" in capsys.readouterr().err  # a folder with a space is quoted
    assert main(["distill", "--resume", str(config.folder)]) == 0
    runs.same_runs(config.folder.with_name("whole"), config.folder)


def test_a_run_that_could_not_be_judged_only_needs_judging(runs: Any, pause: Any, copied: Distill) -> None:
    config = replace(copied, name="unjudged")
    config.folder.mkdir()
    (config.folder / "model").write_text("in the way")
    with pytest.raises(CrossresError, match=r"it is a file; name a folder$"):
        distill(config, quiet=True)
    (config.folder / "model").unlink()
    pause.after(0)  # a step would end here
    distill(config, resume=True, quiet=True)
    runs.same_runs(config.folder.with_name("whole"), config.folder)


@pytest.mark.usefixtures("pause")
def test_resuming_another_experiment_is_refused_and_the_run_stays_resumable(copied: Distill) -> None:
    kept = (copied.folder / "config.yaml").read_bytes()
    with pytest.raises(CrossresError, match=r"^the state belongs to another experiment .*--overwrite"):
        distill(replace(copied, lr_size=7), resume=True, quiet=True)
    assert (copied.folder / "config.yaml").read_bytes() == kept
    assert main(["distill", "--resume", str(copied.folder)]) == 0


def test_a_finished_run_of_another_experiment_is_not_returned(finished: Distill) -> None:
    with pytest.raises(CrossresError, match="holds another finished experiment; use --overwrite or another --name"):
        distill(replace(finished, lr_size=7), resume=True, quiet=True)


@pytest.mark.usefixtures("pause")
def test_what_cannot_be_resumed_is_refused_in_a_line(copied: Distill, runs: Any) -> None:
    config = replace(copied, name="new")
    with pytest.raises(CrossresError, match=r"nothing to resume there; start the run without --resume$"):
        distill(config, resume=True, quiet=True)
    assert not config.folder.exists()
    with pytest.raises(CrossresError, match="holds a run already; use --resume, --overwrite or another --name"):
        distill(copied, quiet=True)
    state = copied.folder / "state.pt"
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(CrossresError, match=r"state\.pt is truncated or not the state of a run .*; use --overwrite$"):
        distill(copied, resume=True, quiet=True)
    distill(copied, overwrite=True, quiet=True)
    runs.same_runs(copied.folder.with_name("whole"), copied.folder)


def test_overwriting_leaves_nothing_of_the_old_run(runs: Any, pause: Any, copied: Distill) -> None:
    config = replace(copied, name="run")
    other = replace(config, lr_size=4, train=replace(config.train, epochs=1, tensorboard=False))
    distill(other, quiet=True)
    pause.after(STEPS + 1)
    with pytest.raises(KeyboardInterrupt):
        distill(config, overwrite=True, quiet=True)
    # an old model would pass for the new run's
    left = {".lock", "config.yaml", "metrics.jsonl", "state.pt"}
    assert {path.name for path in config.folder.iterdir()} == left
    distill(config, resume=True, quiet=True)
    runs.same_runs(config.folder.with_name("whole"), config.folder)


@pytest.mark.usefixtures("pause")
def test_resume_refuses_other_images_and_another_teacher(copied: Distill, drawn: Path, tmp_path: Path) -> None:
    data = tmp_path / "data" / drawn.name
    shutil.copytree(drawn, data)
    config = replace(copied, data=str(data))
    some = next((data / "train").glob("*/*.png"))
    moved = some.with_name("zz-new.png")
    shutil.copy(some, moved)
    with pytest.raises(CrossresError, match="the train images changed since the run began"):
        distill(config, resume=True, quiet=True)
    other = load(config.teacher or "")
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    save_pretrained(other, tmp_path / "elsewhere" / Path(config.teacher or "").name)
    with pytest.raises(CrossresError, match="the teacher changed since the run began"):
        distill(replace(copied, teacher=str(tmp_path / "elsewhere" / "teacher")), resume=True, quiet=True)
    moved.unlink()
    assert distill(config, resume=True, quiet=True)["epochs"] == 3  # the same images elsewhere


def test_a_resumed_run_computes_on_as_many_threads_as_before(
    make: Any, pause: Any, runs: Any, proc_stat: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of it: also the pass of the teacher, whose bits the cache's key depends on."""
    config = make(name="threads", train_epochs=2, losses={**CE, **CRRCD, **pause.losses})
    proc_stat("cpu1 1 0 0 0 0\n", "cpu1 9 0 0 0 0\n")  # looked at once, and busy
    torch.set_num_threads(2)
    pause.after(STEPS + 2)
    with pytest.raises(KeyboardInterrupt):
        distill(config)
    assert "the cores are busy: computing on 1 of 2 threads" in capsys.readouterr().err
    assert runs.state(config.folder)["threads"] == 1
    shutil.rmtree(config.folder.parent / "cache")
    result = distill(config, resume=True)
    assert "busy" not in capsys.readouterr().err
    assert result["machine"]["threads"] == 1
    assert torch.get_num_threads() == 2


def test_a_state_with_maps_that_did_not_follow_the_images_is_refused(make: Any) -> None:
    config = make(losses={**CE, "sp": {"weight": 1.0}}, train_epochs=1)
    assert distill(config, quiet=True)["teacher_maps"] == "moved"
    (config.folder / "result.json").unlink()
    state = torch.load(config.folder / "state.pt", weights_only=True)
    state["given"] = {what: value for what, value in state["given"].items() if "maps" not in what}
    torch.save(state, config.folder / "state.pt")
    with pytest.raises(CrossresError, match="the way stored maps follow the images changed since the run began"):
        distill(config, resume=True, quiet=True)


def test_the_weights_a_run_starts_from_are_recorded(make: Any, drawn: Path, tmp_path: Path) -> None:
    starts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        encoder = build_encoder("resnet8", classes=read(drawn, split="train").classes, input_size=8)
        starts.append(tmp_path / str(seed) / "model")
        save_pretrained(encoder, starts[-1])
    configs = [
        make(name=f"from-{i}", losses=CE, train_epochs=1, model=Model(name="resnet8", weights=str(start)))
        for i, start in enumerate(starts)
    ]
    first, second = (distill(config, quiet=True) for config in configs)
    assert first["config_sha256"] == second["config_sha256"]
    assert first["start_sha256"] != second["start_sha256"]
    with pytest.raises(CrossresError, match="are not one experiment"):
        require_one_experiment([first, second | {"seed": 1}])
    require_one_experiment([first, first | {"seed": 1, "config": second["config"]}])
    (configs[0].folder / "result.json").unlink()
    shutil.copyfile(starts[1] / "model.safetensors", starts[0] / "model.safetensors")
    shutil.copyfile(starts[1] / "config.json", starts[0] / "config.json")
    with pytest.raises(CrossresError, match=r"the model.weights changed since the run began"):
        distill(configs[0], resume=True, quiet=True)


def test_a_damaged_test_image_can_be_mended_before_the_run_is_judged(make: Any, drawn: Path, tmp_path: Path) -> None:
    """No image of the test is read before the training has ended."""
    data = tmp_path / "data"
    shutil.copytree(drawn, data)
    bad = next((data / "test").rglob("*.png"))
    bad.write_bytes(bad.read_bytes()[:50])
    config = make(data=str(data), train_epochs=1, losses=CE, images=Images(memory_mb=0, workers=0))
    with pytest.raises(CrossresError, match=rf"cannot read image {bad}"):
        distill(config, quiet=True)
    assert len((config.folder / "metrics.jsonl").read_text().splitlines()) == 1
    bad.unlink()
    assert distill(config, resume=True, quiet=True)["images"]["test"] == 39


# a teacher in memory


def test_ctrl_c_with_a_teacher_in_memory_says_how_to_go_on(
    make: Any, runs: Any, pause: Any, drawn_teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(name="my run", teacher=None, train_epochs=2, losses={**KD, **pause.losses})
    pause.after(STEPS + 2)
    with pytest.raises(KeyboardInterrupt):
        distill(config, teacher=load(drawn_teacher))
    assert "go on with: crossres.distill(config, teacher=..., resume=True)" in capsys.readouterr().err
    distill(config, teacher=load(drawn_teacher), resume=True, quiet=True)
    assert len(runs.rows(config.folder)) == 2


def test_a_teacher_in_memory_teaches_as_the_same_one_on_disk(
    make: Any, runs: Any, finished: Distill, drawn_teacher: Path
) -> None:
    teacher = load(drawn_teacher)
    teacher.classes = teacher.classes[::-1]  # as a wrapped module may have them: the copy is brought to the data's
    with torch.no_grad():
        teacher.classifier.weight.copy_(teacher.classifier.weight.flip(0))  # type: ignore[union-attr]
        teacher.classifier.bias.copy_(teacher.classifier.bias.flip(0))  # type: ignore[union-attr]
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    result = distill(make(name="memory", teacher=None), teacher=teacher, quiet=True)
    assert result["teacher"] == distill(finished, resume=True, quiet=True)["teacher"]
    runs.same_states(finished.folder, make(name="memory").folder, same_config=False)
    # the user's own network is as it was
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())


def test_a_teacher_in_memory_is_refused_where_another_is_named(make: Any, drawn_teacher: Path) -> None:
    with pytest.raises(CrossresError, match="teacher= needs a Distill or Faces without"):
        distill(make(), teacher=load(drawn_teacher), quiet=True)
    with pytest.raises(CrossresError, match=r"was passed in Python; resume with crossres\.distill\(config, teach"):
        distill(make(teacher=IN_MEMORY), quiet=True)


@pytest.mark.parametrize("wrong", ["runs/teacher", torch.nn.Linear(3, 2)])
def test_a_teacher_that_is_not_an_encoder_is_refused(make: Any, wrong: Any) -> None:
    with pytest.raises(CrossresError, match=r"^teacher is (str|Linear), expected an Encoder"):
        distill(make(teacher=None), teacher=wrong, quiet=True)


# wrong calls


def test_a_config_of_another_command_is_refused(make: Any, drawn: Path) -> None:
    with pytest.raises(CrossresError, match=r"^config is Distill, expected crossres\.Teach$"):
        teach(make())
    with pytest.raises(CrossresError, match=r"^config is Teach, expected crossres\.Distill$"):
        distill(Teach(data=str(drawn)))  # type: ignore[arg-type]
    with pytest.raises(CrossresError, match=r"^config is dict, expected crossres\.Teach"):
        teach({"data": "crops"})  # type: ignore[arg-type]
    with pytest.raises(CrossresError, match="lr_size 17 is larger than hr_size 16"):
        distill(make(lr_size=17), quiet=True)


# labels alone


def test_without_a_teacher_a_student_learns_from_labels_and_is_told(
    make: Any, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make(losses=None, teacher=None, train_epochs=6)
    result = distill(config)
    line = capsys.readouterr().err.splitlines()[0]
    assert line == "no teacher is given: the student learns from labels alone; --teacher RUN distils from one"
    assert (result["teacher"], result["method"]) == (None, "ce")
    rows = runs.rows(config.folder)
    assert rows[-1]["losses"]["ce"] < 0.8 * rows[0]["losses"]["ce"]


def test_the_default_of_a_distillation_runs(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = distill(make(losses=None, train_epochs=1))
    assert result["method"] == "ce+crrcd_images+crrcd_maps"
    assert {name: options["weight"] for name, options in result["losses"].items()} == {
        name: options["weight"] for name, options in METHODS["crrcd"].items()
    }
    assert "labels alone" not in capsys.readouterr().err


@pytest.mark.usefixtures("pause")
def test_one_process_at_a_time_trains_in_a_folder(copied: Distill, tmp_path: Path) -> None:
    lock = FileLock(copied.folder / ".lock")
    with lock:
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(CrossresError, match=r"another process is training in .*; wait until it ends, or"):
                distill(copied, quiet=True, **how)
    assert (copied.folder / "state.pt").exists()
    new = replace(copied, name="new")
    (tmp_path / "runs" / "new").mkdir()
    with FileLock(new.folder / ".lock"), pytest.raises(CrossresError, match="another process is training in"):
        distill(new, quiet=True)
    assert distill(new, quiet=True)["name"] == "new"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epoch": "one"}, r"epoch is str"),
        ({"optimizer": {}}, r"the state is damaged or of another version"),
        ({"given": None}, r"the state is damaged or of another version"),
        ({"distiller": None}, r"the state is damaged or of another version"),
        ({"rows": None}, r"the state is damaged or of another version"),
    ],
)
@pytest.mark.usefixtures("pause")
def test_a_state_with_wrong_entries_is_refused_in_a_line(copied: Distill, changes: dict[str, Any], told: str) -> None:
    state = load_state(copied.folder / "state.pt") | changes
    save_state(copied.folder / "state.pt", {name: value for name, value in state.items() if value is not None})
    with pytest.raises(CrossresError, match=rf"^[^\n]*{told}[^\n]*$"):
        distill(copied, resume=True, quiet=True)


def test_a_run_used_from_elsewhere_says_what_to_give(
    drawn_teacher: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "base"
    shutil.copytree(drawn_teacher, run)
    text = (run / "config.yaml").read_text()
    assert str(drawn) in text
    (run / "config.yaml").write_text(text.replace(str(drawn), "nearby"))
    monkeypatch.chdir(tmp_path)
    for options in (Export(model=str(run), out="x.onnx"), Report(runs=[str(run)], out="x.html")):
        with pytest.raises(CrossresError, match=r"runs/base: its images nearby are not found from here; give --data"):
            (export if isinstance(options, Export) else write_report)(options)


def test_the_normalisation_takes_no_copy_of_all_images(drawn: Path) -> None:
    images = read(drawn, split="train")
    mean, deviation = _normalisation("resnet8", images, 16, "crop")
    pixels = images.pixels(16).transpose(0, 1).flatten(1).double() / 255
    assert mean == pytest.approx(pixels.mean(1).tolist(), rel=1e-12)
    assert deviation == pytest.approx(pixels.std(1).tolist(), rel=1e-12)


def test_deep_pixels_are_read_alike_in_training_and_after_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, low in (("cold", 500), ("warm", 1100)):  # each is as bright by the bits it takes
        for i in range(30):
            path = tmp_path / "deep" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(low, 1.7 * low, (8, 8)).astype(np.uint16)).save(path)
    images = Images(range=(0, 2000))
    train = Train(epochs=6, batch_size=4, val_fraction=0)
    options = Teach(data=str(tmp_path / "deep"), runs=str(tmp_path), images=images, model=Model(name="resnet8"))
    result = teach(replace(options, train=train, device="cpu"), quiet=True)
    assert result["top1_last"] == 100.0
    folder = tmp_path / "teacher"
    assert evaluate(Evaluate(model=str(folder), data=options.data))["top1"] == 100.0
    answers = Recognizer.load(folder).predict(tmp_path / "deep")
    assert [answer.label for answer in answers] == 30 * ["cold"] + 30 * ["warm"]
    export(Export(model=str(folder), out=str(tmp_path / "x.onnx"), data=str(tmp_path / "deep"), limit=10))
    assert Recognizer.load(tmp_path / "x.onnx").facts.range == [0, 2000]
    with pytest.raises(CrossresError, match=r"images\.range is 5, 5; black should be below white"):
        read(options.data, split="train", range=(5, 5))


def test_a_setting_without_which_restarts_fail_is_named(
    make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    distill(make(train_epochs=1))
    assert "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun" in capsys.readouterr().err
