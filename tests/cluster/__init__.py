"""A real Kubernetes cluster on one machine, owned by the tests. See README.md beside this file."""
