#!/usr/bin/env python3
"""List, fetch, verify and prepare data sets from a checkout that is not installed: the command 'convnet datasets'.

    python data_scripts/datasets.py --help
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from convnet.data.commands import main

if __name__ == "__main__":
    sys.exit(main())
