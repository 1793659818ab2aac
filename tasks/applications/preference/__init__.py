"""An assistant that learns further from pairs of a better and a worse answer (DPO)."""
