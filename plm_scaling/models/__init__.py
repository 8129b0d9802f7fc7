"""The architectures as torch modules over packed documents, and the files their weights come in."""
