# The README as the package has it, for `sed -E`: a link leads to where the file is installed, and what is not installed is
# named by its place in the sources.
s,\]\(packaging/examples/,](examples/,g
s,\]\(packaging/(iam|selinux)/,](/usr/share/dr-agent/\1/,g
s,\]\(packaging/agent\.toml\),](/etc/dr-agent/agent.toml),g
s,\]\(LICENSE\),](/usr/share/licenses/dr-agent/LICENSE),g
s,\[packaging/[^]]*\]\((/[^)]*)\),[\1](\1),g
s,\[((src|ami|packaging|tests)/[^]]*)\]\(\1\),`\1` of the sources,g
s,\[([^]]*)\]\(((src|ami|packaging|tests)/[^)]*)\),\1 (`\2` of the sources),g
