"""The jobs that an encoder is trained for, a file each; the training loop and the losses know none of them."""
