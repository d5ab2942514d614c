#compdef palm-cli
# Completion of palm-cli for zsh: source <(palm-cli completion zsh), or a file _palm-cli in $fpath

_palm_cli() {
    local -a candidates
    local line
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        # The description follows a tab; a colon in the candidate is escaped.
        [[ -n $line ]] && candidates+=("${${line//:/\\:}/$'\t'/:}")
    done
    if (( $#candidates )); then
        _describe 'palm-cli' candidates
    else
        _files
    fi
}

if [[ $funcstack[1] == _palm-cli ]]; then
    _palm_cli "$@"
else
    compdef _palm_cli palm-cli
fi
