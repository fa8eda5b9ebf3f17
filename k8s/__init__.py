"""Runs of cclm on Kubernetes: the TorchX scheduler `kubernetes`, which makes one PyTorchJob or TrainJob of a run."""
