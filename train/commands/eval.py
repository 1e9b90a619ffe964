"""Measure a model on any data set.

Prints accuracy, top-5 accuracy, likelihood, calibration and the accuracy of every class; for text
bits per byte; for images, if asked, the accuracy under corruptions:

    archzoo eval runs/RUN                                  its best model on its own test fold
    archzoo eval runs/RUN split=validation --json
    archzoo eval runs/RUN corruptions=true severity=[1,3,5]
    archzoo eval my-model data=cifar10 data.root=DIR       a saved model
    archzoo eval hf-hub:OWNER/NAME data=tabular data.table=wine
"""
