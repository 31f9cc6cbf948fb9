"""Import and export of LeRobot data sets (v3.0: Parquet and MP4).

The package lerobot itself is not used: it asks for other versions of PyTorch and NumPy than the tested ones. A test
opens exported data sets with it, and imports those that it has written, in an environment of its own.

Raises:
    UsageError: pyarrow is missing.
"""

from gato_agent.envs.errors import UsageError, one_line

try:
    import pyarrow as pa
except ImportError as error:
    raise UsageError(f"pyarrow is missing ({one_line(error)}): pip install 'gato-agent[lerobot]'") from error

del pa
