"""What holds for all commands, for the program's help and its man page: exit codes, variables, files."""

from __future__ import annotations

EXIT_CODES: tuple[tuple[str, str], ...] = (
    ("0", "done"),
    ("1", "failed; standard error says what, and what to do next"),
    ("2", "wrong usage: options, input or configuration that make no sense"),
    ("3", "this machine is too small: memory or disk"),
    ("130", "interrupted by Ctrl-C"),
)

ENVIRONMENT: tuple[tuple[str, str], ...] = (
    ("QWENCTL_MODELS", "folder of the models"),
    ("QWENCTL_THREADS", "CPU threads for conversion and llama.cpp"),
    ("QWENCTL_SESSIONS", "off: chats are not saved"),
    ("QWENCTL_HISTORY", "off: nothing of what is typed in a chat is kept"),
    ("QWENCTL_PREFIX_CACHE", "room for prompts that are kept on disk: 8GiB, or off"),
    ("QWENCTL_DEBUG", "1: errors show where in the program they come from"),
    (
        "QWENCTL_MODEL, QWENCTL_CTX …",
        "options of run, chat, batch and serve: --kv-type is QWENCTL_KV_TYPE",
    ),
    ("XDG_CONFIG_HOME, XDG_DATA_HOME, XDG_CACHE_HOME", "parents of the folders below"),
    ("NO_COLOR, TERM=dumb", "no colours, no moving of the cursor"),
    ("HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE", "as the hub's own tools understand them"),
    ("HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE", "how a hub is reached"),
)

FILES: tuple[tuple[str, str], ...] = (
    ("~/.config/qwenctl/config.toml", "options and presets: qwenctl config --help"),
    ("~/.config/qwenctl/templates/", "prompts with holes: qwenctl run --template NAME"),
    ("~/.local/share/qwenctl/models/", "models"),
    ("~/.local/share/qwenctl/sessions.db", "saved chats, readable by their owner only"),
    ("~/.cache/qwenctl/", "what can be made again: qwenctl models prune empties it"),
)
