"""From FASTA files to a prepared corpus, and simulated protein-like corpora."""
