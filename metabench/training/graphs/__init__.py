"""Steps that are recorded once and replayed: as traces on a CPU, as CUDA graphs on a GPU."""
