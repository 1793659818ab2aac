"""MLflow: runs, their lineage, and the registry of models with their evidence."""
