// What the stand-in device says about itself, from the environment: see mvc/offline/device.py.
#pragma once

#include <stdlib.h>

// A number of the card's, such as MVC_STANDIN_MAJOR. The process is ended where it is missing: half a card misleads.
static inline unsigned long long standin(const char *name) {
  const char *text = getenv(name);
  if (!text) abort();
  return strtoull(text, NULL, 10);
}
