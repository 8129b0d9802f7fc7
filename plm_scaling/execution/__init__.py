"""Run many tasks on this machine; knows nothing of what they do."""
