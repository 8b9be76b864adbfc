"""The linear recurrence h_t = a_t h_{t-1} + b_t, which graphs hold where a recurrence is no selective scan."""

from mvc.kernels.recurrence.api import linear_recurrence as linear_recurrence
