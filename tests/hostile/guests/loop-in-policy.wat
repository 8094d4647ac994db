;; world: approval
;; Thinks about its vote for ever.
(func $evaluate (param i32) (result i32) (loop (br 0)) (unreachable))
