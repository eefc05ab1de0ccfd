"""Files that lie beside exported weights. Each stands alone: nothing here imports another file of ours."""
