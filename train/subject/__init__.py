"""What a command is asked about: a model from wherever it is, and data that it is measured on."""
