"""One way to open weights: read a file, check what it says, open a network, load what fits.

``file.read_weights_file`` reads any file of weights; ``open.open_network`` opens a network to be run as it was trained,
``open.start_network`` one to be trained; ``fit.load_weights`` loads tensors into a network, strictly.
"""
