;; world: application
;; Never comes up: the core module's start function does not return.
(func $begin (loop (br 0)))
(start $begin)
