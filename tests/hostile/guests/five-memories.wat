;; world: application
;; Five memories.
(memory $memory 1) (memory 1) (memory 1) (memory 1) (memory 1)
