;; world: engine
;; Says that it is made for fault model 7.
(data (i32.const 68) "\07\07")
