# Completion of rowsync for bash: commands, then files, then the names of tables and options.

# The options that a command takes, as its help has them.
_rowsync_options() {
    "${COMP_WORDS[0]}" help "$1" 2>/dev/null | grep -o -e '--[a-z-]*'
}

# The tables of a file that are not rowsync's or SQLite's own, where sqlite3 is there to ask.
_rowsync_tables() {
    sqlite3 -readonly "$1" "SELECT name FROM sqlite_schema WHERE type = 'table'
        AND name NOT GLOB '_sync_*' AND name NOT GLOB 'sqlite_*'" 2>/dev/null
}

# Fills COMPREPLY for the word under the cursor.
_rowsync() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local commands="clone init track untrack attach detach status sync push pull hydrate watch log
        diff conflicts resolve rejected requeue discard held overwritten verify token help"

    COMPREPLY=()
    case $before in
        --policy)
            local policies="server client merge manual"
            [[ ${COMP_WORDS[1]} != resolve ]] || policies="server client merge"
            mapfile -t COMPREPLY < <(compgen -W "$policies" -- "$word")
            return ;;
        --token-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return ;;
        --url | --user | --source | --schema | --local | --batch-size | --page-size | \
            --token-command | --limit | --ttl | --claim)
            return ;;
    esac
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_rowsync_options "${COMP_WORDS[1]}")" -- "$word")
    elif ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
    elif [[ ${COMP_WORDS[1]} == help ]]; then
        ((COMP_CWORD > 2)) || mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
    elif ((COMP_CWORD == 2)) && [[ ${COMP_WORDS[1]} != @(clone|token) ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    elif ((COMP_CWORD >= 3)) && [[ ${COMP_WORDS[1]} == @(track|untrack) ]] ||
        { ((COMP_CWORD == 3)) && [[ ${COMP_WORDS[1]} == @(resolve|requeue|discard) ]]; }; then
        mapfile -t COMPREPLY < <(compgen -W "$(_rowsync_tables "${COMP_WORDS[2]}")" -- "$word")
    elif ((COMP_CWORD == 3)) && [[ ${COMP_WORDS[1]} == clone ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
    fi
}

complete -o filenames -F _rowsync rowsync
