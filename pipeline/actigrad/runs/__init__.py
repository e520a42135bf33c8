"""Runs: from a config to a finished store.

job       a config, loaded: model, data, loss, what to keep
record    one step, captured batch by batch
run       the streaming loop
repair    what is damaged, captured again
estimate  what a run will need
"""
