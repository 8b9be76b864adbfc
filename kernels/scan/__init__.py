"""The selective scan: its public functions, its oracle, its ops and their implementations."""

from mvc.kernels.scan.api import reset_from_cu_seqlens as reset_from_cu_seqlens, selective_scan as selective_scan
