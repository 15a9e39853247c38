"""What the papers add to supervised fine-tuning: the method table, and the functions that its rows name.

Names are imported from their modules, so that a formula does not import a model library.
"""
