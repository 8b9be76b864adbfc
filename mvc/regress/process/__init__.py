"""The process of a case. The driver runs these files beside the sources of any revision, also of an older one."""
