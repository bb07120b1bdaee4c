"""``python -m convnet``: the command line."""
import sys

from convnet.cli import main

sys.exit(main())
