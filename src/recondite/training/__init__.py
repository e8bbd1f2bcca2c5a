"""The training loop, checkpoints, augmentation and presets."""
