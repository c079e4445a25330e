"""Encoders: backbones for native low resolution, teachers, saving and loading."""
