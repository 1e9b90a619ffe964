"""Train any model of the zoo from a Hydra config: `python -m archzoo.train`."""

if __name__ == "train":
    raise ImportError("this folder is a part of archzoo: import archzoo.train, not train")
