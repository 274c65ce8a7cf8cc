-- Of the scripts as they are packed (src/queue/lua): what Redis gives them and no more.
std = 'lua51'
read_globals = {'redis', 'KEYS', 'ARGV'}
not_globals = {'arg', 'collectgarbage', 'debug', 'dofile', 'gcinfo', 'getfenv', 'io', 'loadfile', 'module', 'newproxy', 'os',
               'package', 'print', 'require', 'setfenv'}
-- 43.: a part does not know what the script that it comes into calls its own
ignore = {'43.'}
max_line_length = false -- of what is packed; pack.pl looks at that of the source
