"""What users call: each job joins a corpus or a cube with the engine."""
