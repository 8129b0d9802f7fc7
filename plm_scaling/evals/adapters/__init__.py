"""Models of every origin behind one face."""
