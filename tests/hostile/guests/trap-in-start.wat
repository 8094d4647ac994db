;; world: application
;; Traps before it is up.
(func $begin (unreachable))
(start $begin)
