"""A plan and its preprocessed cases become a trained network, which `loop` drives and the other modules serve.

`loop` holds the order of things, `task` what a run is given and how far it is, `length` how long it is, `trainer` the network with its
optimizer, `batches` the patches it sees (`sampling`, `augmentation`), `loss` what is minimised. `resuming` keeps a run across kills.
"""
