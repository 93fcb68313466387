"""From a model file to a network that runs, and whether what is written is that network."""
