#!/usr/bin/env bash
# Run a command of the gate in a job. The Markdown that it writes goes into the job's summary, and its first line into an
# annotation where the exit status is not 0. Inconclusive (2) is a warning and passes; nothing passes without a result.
#
#   .github/scripts/gate.sh regress.md python -m mvc.regress compare main...HEAD --markdown regress.md
set -uo pipefail
shopt -s extglob

page=$1
shift
rm -f -- "$page"

status=0
"$@" || status=$?

if [ -s "$page" ]; then
  cat -- "$page" >> "${GITHUB_STEP_SUMMARY:-/dev/null}"
  read -r sentence < "$page" || true
  sentence=${sentence##*(\#)}
  sentence=${sentence# }
  sentence=${sentence//\*\*/}
  case $status in 0 | 1 | 2 | 3) ;; *) sentence="exit status $status; $sentence" ;; esac
else
  sentence="no result, exit status $status; the log of this step says why"
  case $status in 0 | 2) status=1 ;; esac
fi
sentence=${sentence//%/%25}
sentence=${sentence//$'\r'/%0D}
case $status in
  0) ;;
  2)
    echo "::warning title=Latency::$sentence"
    status=0
    ;;
  *) echo "::error title=Latency::$sentence" ;;
esac
exit "$status"
