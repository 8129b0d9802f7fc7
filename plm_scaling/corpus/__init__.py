"""Read, pack, order and account for a prepared corpus."""
