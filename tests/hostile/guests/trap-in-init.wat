;; world: engine
;; Traps when it is to start.
(func $init (param i32) (result i32) (unreachable))
