"""params.yaml as validated classes, on top of datasets and applications: read, checked, and changed."""
