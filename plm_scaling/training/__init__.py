"""One block, two objectives, one readable loop. The only library package that imports torch."""
