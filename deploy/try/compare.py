"""Compares a fetched output with the recording it was made from: every file, byte for byte, nothing missing or added."""
import json
import pathlib
import re
import sys

recording, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
expected = {}
for line in recording.read_text(encoding="utf-8").splitlines():
    reply = json.loads(line)
    request = reply.get("request", "")
    if request.startswith("file "):
        found = re.search(r'<file path="[^"]*" id="\{\{id\}\}">\n(.*)</file-\{\{id\}\}>', reply["text"], re.DOTALL)
        expected[request.removeprefix("file ")] = found.group(1)
present = {
    path.relative_to(output).as_posix(): path.read_text(encoding="utf-8")
    for path in output.rglob("*")
    if path.is_file() and not path.relative_to(output).parts[0].startswith(".")
}
faults = [f"{path} is missing" for path in sorted(expected.keys() - present.keys())]
faults += [f"{path} is not in the recording" for path in sorted(present.keys() - expected.keys())]
faults += [f"{path} differs" for path in sorted(expected.keys() & present.keys()) if expected[path] != present[path]]
if faults:
    sys.exit("\n".join(faults))
print(f"{len(expected)} files, each as recorded")
