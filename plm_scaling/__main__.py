"""`python -m plm_scaling`: the same as `plm-scaling`."""

from __future__ import annotations

from plm_scaling.cli.main import main

if __name__ == "__main__":
    main()
