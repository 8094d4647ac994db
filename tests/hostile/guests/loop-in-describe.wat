;; world: application
;; Comes up, and never says what it is.
(func $describe (result i32) (loop (br 0)) (unreachable))
