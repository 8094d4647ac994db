;; world: engine
;; Does nothing for $STEPS steps, then traps.
(global $steps (mut i32) (i32.const $STEPS))
(func $step (param i64 i32 i32) (result i32)
  (global.set $next (i32.const 65536))
  (global.set $steps (i32.sub (global.get $steps) (i32.const 1)))
  (if (i32.le_s (global.get $steps) (i32.const 0)) (then (unreachable)))
  (i32.const 0))
