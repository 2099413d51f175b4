"""How a search stands: in the terminal, in TensorBoard, and as `metabench status` says."""
