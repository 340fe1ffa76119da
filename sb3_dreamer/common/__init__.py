"""Parts shared by the algorithms: tensors in and out, replay of sequences, the rollout and training loop."""
