"""One step of the selective scan, for decoding."""

from mvc.kernels.state_update.api import selective_state_update as selective_state_update
