"""What a run starts from: the weights of another model, an adapter beside them, or a teacher."""
