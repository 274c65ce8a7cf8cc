if holder then redis.call('DEL', lock) end
redis.call('HDEL', job, 'worker')
