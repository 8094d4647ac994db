;; world: engine
;; Answers each vote by one: the slot and the digest that came in, to all.
(memory $memory 8)
(func $step (param i64 i32 i32) (result i32) (local $in i32) (local $out i32) (local $end i32)
  (global.set $next (i32.const 65536))
  (local.set $in (local.get 1))
  (local.set $out (i32.const 262144))
  (local.set $end (i32.add (local.get $in) (i32.mul (local.get 2) (i32.const 72))))
  (loop
    (i32.store8 (local.get $out) (i32.const 0))
    (i32.store8 offset=8 (local.get $out) (i32.const 0))
    (memory.copy
      (i32.add (local.get $out) (i32.const 24)) (i32.add (local.get $in) (i32.const 16)) (i32.const 56))
    (local.set $in (i32.add (local.get $in) (i32.const 72)))
    (local.set $out (i32.add (local.get $out) (i32.const 80)))
    (br_if 0 (i32.lt_u (local.get $in) (local.get $end))))
  (i32.store (i32.const 264) (i32.const 262144))
  (i32.store (i32.const 268) (local.get 2))
  (i32.const 256))
